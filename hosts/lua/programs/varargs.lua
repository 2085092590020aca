-- Functions of any number of arguments and results.
-- sizes: test=60 idle=2500
local n = tonumber(arg[1]) or 3000000
local function count(...)
  return select("#", ...)
end
local function sum(...)
  local s = 0
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    s = s + (value or 1000)
  end
  return s
end
local function rotate(first, ...)
  if first then
    return ..., first
  end
end
local function pass(...)
  return ...
end
local total, packed = 0, 0
for i = 1, n do
  total = total + count(pass(i, nil, i, nil)) + sum(i, nil, 3)
  local a, b, c = rotate(i, i + 1, i + 2)
  total = total + a + b * 2 + (c or 5)
  local t = table.pack(pass(i, i * 2))
  packed = packed + t.n + t[2]
  if i % 4 == 0 then
    total = total + sum(table.unpack({ 1, 2, 3, i }))
  end
end
print(total, packed, (pass(7, 8)), select(-1, pass(1, 2, 3)))
