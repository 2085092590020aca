-- The loops that jump back by a plain jump: while, repeat, goto, break, nested and with several ways round.
-- sizes: test=300 idle=20000
local n = tonumber(arg[1]) or 40000000

local i, odd, third, rest = 0, 0, 0, 0
while i < n do
  if i % 2 == 1 then
    odd = odd + i
  elseif i % 3 == 0 then
    third = third + 1
  else
    rest = rest ~ i
  end
  i = i + 1
end
print(odd, third, rest)

local k, steps = n, 0
repeat
  local half = k // 2
  k = k % 7 == 3 and half + 1 or k - 5
  steps = steps + half % 4
until k <= 10
print(k, steps)

local x, round = 27, 0
::top::
x = x % 2 == 0 and x // 2 or 3 * x + 1
round = round + 1
if round < n then
  goto top
end
print(x, round)

local outer, found = 0, 0
while true do
  outer = outer + 1
  local inner = outer
  while inner > 1 do
    inner = inner - 3
    if inner == 1 then
      found = found + 1
      break
    end
    if inner & 64 ~= 0 then
      goto continue
    end
  end
  found = found + 2
  ::continue::
  if outer * outer >= n then
    break
  end
end
print(outer, found)

-- Signs, zero and floats through the same operators.
local mods = 0.0
for a = -7, 7 do
  for b = -3, 3 do
    if b ~= 0 then
      mods = mods * 1.25 + a % b + a // b + a % (b + 0.5) - a // (b + 0.5)
    end
  end
end
print(string.format("%.15g", mods))
