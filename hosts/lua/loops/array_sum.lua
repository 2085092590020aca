-- The sum of an array, which the loop around it repeats too rarely to get hot itself.
local a = {}
for i = 1, 50 do
  a[i] = i
end
local x = 0
for _ = 1, 2 do
  for i = 1, #a do
    x = x + a[i]
  end
end
print(x)
