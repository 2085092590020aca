-- Compiles and runs the same loop as new code, again and again: every one is recorded anew, by an interpreter
-- whose own code is known from the second time on.
local n = tonumber(arg[1]) or 1
local body = [[
local t = ...
local s = 0
for i = 1, 260 do
  local j = i % 10 + 1
  t[j] = t[j] + i
  s = s + t[j] * 2
  if s > 1000000000 then s = 0 end
end
return s
]]
local t = {}
for i = 1, 10 do t[i] = i end
local sum = 0
-- Calls instead of a loop, which would be recorded too.
local function again(left)
  if left == 0 then return end
  sum = sum + load(body)(t)
  return again(left - 1)
end
again(n)
print(sum)
