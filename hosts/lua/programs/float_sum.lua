-- Sums floats.
-- sizes: test=1000 idle=200000
local n = tonumber(arg[1]) or 400000000
local x = 0.0
for _ = 1, n do
  x = x + 1.5
end
print(string.format("%.17g", x))
-- The counter itself is a float here.
local y = 0
for f = 0.5, n // 20, 1 do
  y = y + f
end
print(string.format("%.17g", y))
