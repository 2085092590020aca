-- Calls a Lua function.
local function f(a)
  return a
end
local x
for i = 1, 100 do
  x = f(i)
end
print(x)
