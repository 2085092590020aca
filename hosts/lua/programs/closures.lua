-- Closures made in loops: counters that share, loop variables that do not, accumulators, compositions, memo tables.
-- sizes: test=60 idle=4000
local n = tonumber(arg and arg[1]) or 60

local makers, shared = {}, 0
for i = 1, n do
  local own = i
  makers[i] = function(by)
    own = own + by
    shared = shared + own % 3
    return own
  end
end
local sum = 0
for round = 1, 4 do
  for i = 1, n do sum = sum + makers[i](round) end
end
print(sum, shared)

-- Two closures of the same variable, one of which outlives the loop.
local getters = {}
for i = 1, n do
  local value = i * 2
  local function set(x) value = x end
  local function get() return value end
  if i % 2 == 0 then set(-value) end
  getters[#getters + 1] = get
end
sum = 0
for _, get in ipairs(getters) do sum = sum + get() end
print(sum)

local function compose(f, g) return function(x) return f(g(x)) end end
local f = function(x) return x end
for i = 1, math.min(n, 100) do
  f = compose(f, i % 3 == 0 and function(x) return x * 2 % 9973 end or function(x) return x + i end)
end
print(f(1), f(2))

local function memoize(g)
  local memo = {}
  return function(x)
    local known = memo[x]
    if known == nil then known = g(x) memo[x] = known end
    return known
  end
end
local fib
fib = memoize(function(x) if x < 2 then return x end return fib(x - 1) + fib(x - 2) end)
print(fib(math.min(n, 80)))

local function iterator(limit)
  local i = 0
  return function()
    i = i + 1
    if i <= limit then return i, function() return i end end
  end
end
sum = 0
for i, later in iterator(n) do sum = sum + i * later() end
print(sum)

local function curry(a) return function(b) return function(c) return a * b + c end end end
sum = 0
for i = 1, n do sum = sum + curry(i)(i + 1)(i + 2) end
print(sum)
