-- Calls a closure that keeps its state in an upvalue.
local s = 0
local function acc(i)
  s = s + i
end
for i = 1, 100 do
  acc(i)
end
print(s)
