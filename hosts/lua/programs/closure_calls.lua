-- Calls closures that keep their state in upvalues.
-- sizes: test=500 idle=40000
local n = tonumber(arg[1]) or 48000000
local function counter(step)
  local value = 0
  return function(x)
    value = value + step * x
    return value
  end
end
local one, seven = counter(1), counter(7)
local last = 0
for i = 1, n do
  last = one(i) - last
  if i & 15 == 0 then
    last = seven(i) ~ last
  end
end
print(last, one(0), seven(0))
