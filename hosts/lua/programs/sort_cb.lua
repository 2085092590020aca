-- Sorts with comparison functions: loops in C that call Lua.
-- sizes: test=40 idle=700
local n = tonumber(arg[1]) or 450000
local seed = 42
local function random()
  seed = (seed * 1103515245 + 12345) & 0x7fffffff
  return seed
end
local numbers, records = {}, {}
for i = 1, n do
  numbers[i] = random() % 100000
  records[i] = { key = random() % 1000, order = i }
end
local compared = 0
table.sort(numbers, function(a, b)
  compared = compared + 1
  return a > b
end)
table.sort(records, function(a, b)
  if a.key ~= b.key then
    return a.key < b.key
  end
  return a.order < b.order
end)
local check, good = 0, true
for i = 1, n do
  check = (check * 31 + numbers[i] + records[i].order) & 0xffffffff
  if i > 1 then
    good = good and numbers[i - 1] >= numbers[i] and records[i - 1].key <= records[i].key
  end
end
print(check, good, compared > n)
print(pcall(table.sort, { 3, "x", 1 }, function(a, b)
  return a < b
end))
