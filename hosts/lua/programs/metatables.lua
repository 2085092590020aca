-- Operators, indexing, calls and length through metamethods.
-- sizes: test=60 idle=2500
local n = tonumber(arg[1]) or 900000
local Vector = {}
Vector.__index = Vector
local function vector(x, y)
  return setmetatable({ x = x, y = y }, Vector)
end
Vector.__add = function(a, b) return vector(a.x + b.x, a.y + b.y) end
Vector.__sub = function(a, b) return vector(a.x - b.x, a.y - b.y) end
Vector.__mul = function(a, k) return vector(a.x * k, a.y * k) end
Vector.__unm = function(a) return vector(-a.x, -a.y) end
Vector.__eq = function(a, b) return a.x == b.x and a.y == b.y end
Vector.__lt = function(a, b) return a.x * a.x + a.y * a.y < b.x * b.x + b.y * b.y end
Vector.__le = function(a, b) return not (b < a) end
Vector.__len = function(a) return a.x + a.y end
Vector.__call = function(a, k) return a.x * k end
Vector.__concat = function(a, b) return "(" .. tostring(a.x) .. ")" .. tostring(b) end
Vector.__tostring = function(a) return a.x .. "," .. a.y end

local v, equal, less, sum = vector(1, 2), 0, 0, 0
for i = 1, n do
  local w = vector(i % 5, i % 3)
  v = (v + w * 2 - vector(3, 1)) * 1
  if -w == vector(0, 0) then
    equal = equal + 1
  end
  if w < vector(2, 1) then
    less = less + 1
  end
  if w <= vector(1, 1) then
    less = less + 10
  end
  sum = sum + #w + w(3)
end
print(tostring(v), equal, less, sum, v .. "!")

-- Missing fields computed, and remembered on every other read; writes kept elsewhere.
local made, store = 0, {}
local lazy = setmetatable({}, {
  __index = function(t, k)
    made = made + 1
    if k % 2 == 0 then
      rawset(t, k, k * k)
    end
    return k * k
  end,
  __newindex = function(_, k, value)
    store[k] = value
  end,
})
local total = 0
for i = 1, n do
  local k = i % 16
  total = total + lazy[k]
  if k > 7 and k % 2 == 1 then
    lazy[k] = total & 255
  end
end
print(made, total, store[9], store[15])

-- The metatable changes while the loop runs.
local slow, fast = { __index = { value = 1 } }, { __index = { value = 100 } }
local object = setmetatable({}, slow)
local seen = 0
for i = 1, n do
  seen = seen + object.value
  if i == n // 2 then
    setmetatable(object, fast)
  elseif i == n // 2 + 7 then
    fast.__index = function(_, key) return #key end
  end
end
print(seen)
