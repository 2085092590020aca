-- Every permutation of 1..n in lexicographic order: how many prefix reversals bring 1 to the front?
-- sizes: test=5 idle=6
local n = tonumber(arg[1]) or 10
local p, q = {}, {}
for i = 1, n do
  p[i] = i
end
local most, sum, parity = 0, 0, 1
while true do
  for i = 1, n do
    q[i] = p[i]
  end
  local flips = 0
  local first = q[1]
  while first ~= 1 do
    local i, j = 1, first
    while i < j do
      q[i], q[j] = q[j], q[i]
      i, j = i + 1, j - 1
    end
    flips = flips + 1
    first = q[1]
  end
  if flips > most then
    most = flips
  end
  sum = sum + parity * flips
  parity = -parity
  local i = n - 1
  while i > 0 and p[i] > p[i + 1] do
    i = i - 1
  end
  if i == 0 then
    break
  end
  local j = n
  while p[j] < p[i] do
    j = j - 1
  end
  p[i], p[j] = p[j], p[i]
  local a, b = i + 1, n
  while a < b do
    p[a], p[b] = p[b], p[a]
    a, b = a + 1, b - 1
  end
end
print(sum, most)
