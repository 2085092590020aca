-- Deep Lua stacks (they move when they grow), loops at every depth, deep native stacks, and stack overflow.
-- sizes: test=100 idle=900
local n = tonumber(arg[1]) or 150000
local function descend(depth)
  local sum = 0
  for i = 1, 3 do
    sum = sum + i * depth
  end
  if depth > 0 then
    return sum + descend(depth - 1)
  end
  return sum
end
local total = 0
for round = 1, n > 1000 and 8000 or 20 do
  total = total + descend(n // 20 * ((round - 1) % 20 + 1) // 20) % 1000003
end
print(total)

local function ackermann(m, k)
  if m == 0 then
    return k + 1
  elseif k == 0 then
    return ackermann(m - 1, 1)
  end
  return ackermann(m - 1, ackermann(m, k - 1))
end
print(ackermann(2, n > 1000 and 300 or 20))

-- A native frame for every level: sort calls the comparison, which sorts again.
local function through_c(depth)
  local seen = 0
  table.sort({ 2, 1 }, function(a, b)
    for i = 1, 4 do
      seen = seen + i
    end
    if depth > 0 and seen == 10 then
      seen = seen + through_c(depth - 1)
    end
    return a < b
  end)
  return seen
end
local native = 0
for _ = 1, 5 do
  native = native + through_c(30)
end
print(native)

local reached = 0
local function forever(depth)
  reached = depth
  for _ = 1, 2 do
    reached = reached + 0
  end
  return 1 + forever(depth + 1)
end
local ok, message = pcall(forever, 1)
print(ok, tostring(message):match("stack overflow"), reached > 1000)
