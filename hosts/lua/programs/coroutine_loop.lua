-- Loops on both sides of a yield, wrapped coroutines as iterators, and errors that cross them.
-- sizes: test=40 idle=1500
local n = tonumber(arg[1]) or 4500000
local function numbers(limit)
  return coroutine.wrap(function()
    for i = 1, limit do
      coroutine.yield(i)
    end
  end)
end
local sum = 0
for i in numbers(n) do
  sum = sum + i
end
local consumer = coroutine.create(function(first)
  local total = first
  while true do
    local value = coroutine.yield(total)
    for k = 1, 3 do
      total = total + value * k
    end
  end
end)
local _, seen = coroutine.resume(consumer, 1)
for i = 1, n do
  _, seen = coroutine.resume(consumer, i)
end
local failed = 0
for i = 1, n // 10 + 1 do
  local co = coroutine.create(function(x)
    for k = 1, 4 do
      local y = coroutine.yield(x + k)
      if y > 7 then
        error("over")
      end
    end
    return "done"
  end)
  local ok, value = coroutine.resume(co, i)
  while ok and coroutine.status(co) == "suspended" do
    ok, value = coroutine.resume(co, (i + value) % 9)
  end
  if not ok then
    failed = failed + 1
  end
end
local nested = coroutine.wrap(function()
  for i in numbers(20) do
    local ok, e = pcall(function()
      coroutine.yield(i * 2)
      if i % 5 == 0 then
        error(i, 0)
      end
    end)
    if not ok then
      coroutine.yield(-e)
    end
  end
end)
local chain = 0
for value in nested do
  chain = chain * 3 + value
end
print(sum, seen, failed, chain)
