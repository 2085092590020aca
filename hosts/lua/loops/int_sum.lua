-- The sum of integers.
local x = 0
for i = 1, 100 do
  x = x + i
end
print(x)
