-- Calls a function of the library.
local floor = math.floor
local x
for i = 1, 100 do
  x = floor(i * 0.5)
end
print(x)
