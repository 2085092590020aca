-- Builds strings by concatenation, buffers and repetition, and hashes them byte by byte.
-- sizes: test=60 idle=2000
local n = tonumber(arg and arg[1]) or 60

local function fnv(text)
  local hash = 0xcbf29ce484222325
  for i = 1, #text do hash = (hash ~ text:byte(i)) * 0x100000001b3 end
  return hash
end

local function adler(text)
  local a, b = 1, 0
  for i = 1, #text do
    a = (a + text:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return b << 16 | a
end

local text, parts, counts = "", {}, {}
for i = 1, n do
  local word = string.char(97 + i % 26):rep(i % 5 + 1) .. i
  text = text .. word
  if #text > 200 then text = text:sub(101) end
  parts[#parts + 1] = word
  local key = word:sub(1, 2)
  counts[key] = (counts[key] or 0) + 1
end
local joined = table.concat(parts, ",")
print(#text, #joined, fnv(text), adler(joined))

local reversed, upper = joined:reverse(), joined:upper()
local same = 0
for i = 1, #joined do
  if joined:sub(i, i) == upper:sub(i, i) then same = same + 1 end
  if joined:byte(i) == reversed:byte(i) then same = same + 2 end
end
print(same, fnv(reversed) & 0xffff, fnv(upper) & 0xffff)

local keys = {}
for key in pairs(counts) do keys[#keys + 1] = key end
table.sort(keys)
local line = {}
for i, key in ipairs(keys) do
  if i > 12 then break end
  line[#line + 1] = key .. "=" .. counts[key]
end
print(table.concat(line, " "))

-- Long strings are equal by content, and as keys of tables as well.
local seen, hits = {}, 0
for i = 1, n do
  local long = ("x"):rep(50) .. i % 7
  if seen[long] then hits = hits + seen[long] end
  seen[long] = i
end
print(hits)
