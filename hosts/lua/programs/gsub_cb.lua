-- Replacement callbacks and iterators of string patterns.
-- sizes: test=5 idle=60
local n = tonumber(arg[1]) or 80000
local text = ("the quick brown fox, 42 lazy dogs; and 7 cats "):rep(5)
local words, digits, length = 0, 0, 0
for round = 1, n do
  local changed = text:gsub("%a+", function(word)
    words = words + 1
    if #word > 4 then
      return word:upper()
    elseif word == "fox" then
      return nil
    end
    local count = 0
    for k = 1, #word do
      count = count + word:byte(k)
    end
    return count % 10
  end)
  changed = changed:gsub("%d+", { ["42"] = "forty-two", ["7"] = "seven" })
  for number in changed:gmatch("%d") do
    digits = digits + number
  end
  length = (length * 7 + #changed + round) & 0xffffff
end
print(words, digits, length)
