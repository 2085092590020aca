-- Debug hooks that come and go while loops run: counts, lines and calls are seen exactly as often as without traces.
-- sizes: test=60 idle=2000
local n = tonumber(arg and arg[1]) or 60

local function work(limit)
  local x = 0
  for i = 1, limit do
    x = x + i % 7
    if x > 1000 then x = x - 1000 end
  end
  return x
end

print(work(n))
for _, every in ipairs({1, 2, 7, 100}) do
  local count = 0
  debug.sethook(function() count = count + 1 end, "", every)
  local x = work(n)
  debug.sethook()
  print(every, count, x, work(n))
end

local lines = {}
debug.sethook(function(_, line) lines[line] = (lines[line] or 0) + 1 end, "l")
work(n)
debug.sethook()
local list = {}
for line, count in pairs(lines) do list[#list + 1] = string.format("%03d=%d", line, count) end
table.sort(list)
print(table.concat(list, " "))

local calls, returns = 0, 0
debug.sethook(function(event)
  if event == "return" then returns = returns + 1 else calls = calls + 1 end
end, "cr")
for i = 1, n do work(i % 4) math.abs(-i) end
debug.sethook()
print(calls, returns)

-- A hook that is set in the middle of a loop, and one that ends it.
local seen = 0
for i = 1, n do
  if i == n // 2 then debug.sethook(function() seen = seen + 1 end, "", 3) end
  if i == n // 2 + 10 then debug.sethook() end
end
print(seen)
local stopped = 0
for _ = 1, 5 do
  local rounds = 0
  debug.sethook(function() error("enough", 0) end, "", 1000)
  local ok, e = pcall(function() while true do rounds = rounds + 1 end end)
  debug.sethook()
  stopped = stopped + rounds
  if ok or e ~= "enough" then print("not stopped", e) end
end
print(stopped)

-- Each coroutine has hooks of its own.
local inside = 0
local co = coroutine.create(function() for i = 1, n do coroutine.yield(work(i % 5)) end end)
debug.sethook(co, function() inside = inside + 1 end, "l")
local total = 0
for i = 1, n do total = total + select(2, coroutine.resume(co)) end
print(total, inside)
