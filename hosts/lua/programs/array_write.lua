-- Writes an array in place, and one that grows.
-- sizes: test=20 idle=1500
local rounds = tonumber(arg[1]) or 2400000
local a = {}
for i = 1, 100 do
  a[i] = 0
end
for r = 1, rounds do
  for i = 1, #a do
    a[i] = i + r
  end
end
local check = 0
for i = 1, #a do
  check = check * 31 + a[i]
end
local grown = {}
for i = 1, rounds do
  grown[i] = i & 7
end
print(check, #grown, grown[#grown])
