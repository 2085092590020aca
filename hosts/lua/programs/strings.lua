-- Makes, cuts, searches and compares strings.
-- sizes: test=60 idle=1200
local n = tonumber(arg[1]) or 1200000
local letters = "abcdefghijklmnopqrstuvwxyz"
local hash, parts, less = 5381, {}, 0
local previous = ""
for i = 1, n do
  local from = i % 20 + 1
  local word = letters:sub(from, from + i % 6) .. (i % 97) .. "/" .. i * 0.5
  for k = 1, #word do
    hash = (hash * 33 ~ word:byte(k)) & 0xffffffff
  end
  if word < previous then
    less = less + 1
  end
  previous = word
  if i % 50 == 0 then
    parts[#parts + 1] = word:upper():reverse()
  end
  if word:find("9/", 1, true) then
    hash = hash ~ #word
  end
  local a, b = word:match("(%a+)(%d+)")
  if b and #b == 1 then
    less = less + #a
  end
end
print(hash, less, #table.concat(parts, ","))
print(string.format("%5d|%-8s|%08.3f|%q", n % 1000, parts[1] or "none", n / 7, previous))
