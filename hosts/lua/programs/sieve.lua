-- Primes by crossing out multiples.
-- sizes: test=2000 idle=12000
local n = tonumber(arg[1]) or 8000000
local composite = {}
for i = 1, n do
  composite[i] = false
end
local count, last = 0, 0
for i = 2, n do
  if not composite[i] then
    count, last = count + 1, i
    for j = i * i, n, i do
      composite[j] = true
    end
  end
end
print(count, last)
