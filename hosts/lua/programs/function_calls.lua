-- Calls small local and global functions, recursive ones too.
-- sizes: test=300 idle=15000
local n = tonumber(arg[1]) or 8000000
local function add(a, b)
  return a + b
end
function scale(x, by)
  return add(x, x) * by
end
local function sum_to(k)
  if k == 0 then
    return 0
  end
  return k + sum_to(k - 1)
end
local function tail(k, acc)
  if k == 0 then
    return acc
  end
  return tail(k - 1, acc + k)
end
local x = 0
for i = 1, n do
  x = add(x, scale(i, 3))
  x = (x + sum_to(i & 7) - tail(i & 3, 0)) & 0xffffffffff
end
local function fib(k)
  if k < 2 then
    return k
  end
  return fib(k - 1) + fib(k - 2)
end
print(x, fib(n >= 100000 and 24 or 12))
