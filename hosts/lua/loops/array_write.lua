-- Writes to an array, which the loop around it repeats too rarely to get hot itself.
local a = {}
for i = 1, 50 do
  a[i] = 0
end
for _ = 1, 2 do
  for i = 1, #a do
    a[i] = i
  end
end
print(a[50])
