-- Sums integers; the sum wraps around.
-- sizes: test=1000 idle=200000
local n = tonumber(arg[1]) or 400000000
local x = math.maxinteger - 1000
for i = 1, n do
  x = x + i
end
print(x)
