-- Looks at the bytes of a string.
local byte = string.byte
local s = string.rep("lua", 40)
local x = 0
for i = 1, #s do
  x = x + byte(s, i)
end
print(x)
