-- The sum of floats.
local x, y = 0.0, 0.5
for _ = 1, 100 do
  x = x + y
end
print(x)
