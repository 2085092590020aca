-- Numbers become text and text becomes numbers: string.format, tostring, tonumber, concatenation of numbers.
-- sizes: test=50 idle=1000
local n = tonumber(arg and arg[1]) or 50

local floats = {0.5, -2.25, 1e100, 7, 1 / 3, -0.0, 1e15, 123456.789}
local filler = " between texts that fill vector registers "
local hash, length = 0, 0
local function add(text)
  length = length + #text
  for i = 1, #text, 3 do hash = (hash * 31 + text:byte(i)) & 0xffffffff end
end

for i = 1, n do
  local x = floats[i % #floats + 1]
  add(tostring(x) .. filler .. tostring(x * i) .. filler)
  add(string.format("%5d|%-6s|%x|%5.2f|%g|%q", i, "s" .. i, i * 255, x, x / 3, "a\n\"" .. i))
  add(string.format("%s %10.4s| %c %o %e %a %i", x, filler, 65 + i % 26, i, x, x, i))
  add(i .. "" .. x .. filler .. i / 2)
end
print(length, hash)

local sum = 0
for i = 1, n do
  sum = sum + tonumber(i .. ".5") + tonumber("0x" .. string.format("%x", i)) + tonumber(tostring(i), 16)
  if tonumber("x" .. i) or tonumber(i .. " ") ~= i or tonumber("") then sum = sum + 1000000 end
  sum = sum + (i .. "") * "2" + math.tointeger(i .. "")
end
print(sum)

local bad = 0
for i = 1, n do
  local ok, message = pcall(string.format, i % 2 == 0 and "%d" or "%y", i + 0.5)
  if not ok then bad = bad + #message end
end
print(bad)
print(string.format("%.14g %.3f %s %s", 1e16, 2 / 3, 1e16, 2^63), 2^53 .. "", -(0 / 1), math.mininteger, 3 | 0)
