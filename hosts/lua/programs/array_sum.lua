-- Reads a small array again and again.
-- sizes: test=20 idle=1500
local rounds = tonumber(arg[1]) or 2400000
local a = {}
for i = 1, 100 do
  a[i] = i * i
end
local x = 0
for r = 1, rounds do
  for i = 1, #a do
    x = x + a[i]
  end
  x = x ~ r
end
print(x)
