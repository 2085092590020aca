-- One loop that is entered through 100 closures over 100 tables, in an order that mixes them.
local function make(t)
  return function(n)
    for i = 1, n do t.x = t.x + i; t.y = t.x end
    return t.x
  end
end
local closures = {}
for i = 1, 100 do closures[i] = make({x = i, y = 0}) end
local sum, k = 0, 7
for _ = 1, 4000 do
  k = (k * 37 + 11) % 100
  sum = sum + closures[k + 1](20)
end
print(sum)
