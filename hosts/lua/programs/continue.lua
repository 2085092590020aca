-- Leaves, repeats and skips iterations by goto, in every kind of loop.
-- sizes: test=80 idle=20000
local n = tonumber(arg and arg[1]) or 80

local kept, skipped = 0, 0
for i = 1, n do
  if i % 3 == 0 then goto continue end
  for j = i, 1, -1 do
    if (i + j) % 5 == 0 then goto continue end
    if j < i - 6 then break end
    kept = kept + j
  end
  kept = kept + 1
  ::continue::
  skipped = skipped + i % 2
end
print(kept, skipped)

local i, sum = 0, 0
::top::
i = i + 1
if i <= n then
  if i & 1 == 1 then goto top end
  sum = sum + i
  if i % 10 ~= 4 then goto top end
  sum = sum * 2 % 100003
  goto top
end
print(i, sum)

-- Every pass has a local of its own, which a closure may keep.
local kept_functions = {}
do
  local k = 0
  ::again::
  local mine = k * k
  if k % 4 == 1 then kept_functions[#kept_functions + 1] = function() mine = mine + 1 return mine end end
  k = k + 1
  if k < n then goto again end
end
local total = 0
for round = 1, 3 do
  for _, f in ipairs(kept_functions) do
    if round == 2 and f() % 2 == 0 then goto next end
    total = total + f()
    ::next::
  end
end
print(#kept_functions, total)

local w, odd = 0, 0
while true do
  w = w + 1
  repeat
    if w % 2 == 0 then break end
    odd = odd + w
  until true
  if w > n then goto out end
end
::out::
print(w, odd)
