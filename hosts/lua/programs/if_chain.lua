-- Long chains of conditions: a machine with many instructions, tokens, ranges.
-- sizes: test=300 idle=20000
local n = tonumber(arg and arg[1]) or 300

local function step(op, a, b)
  if op == "add" then return a + b
  elseif op == "sub" then return a - b
  elseif op == "mul" then return a * b % 10007
  elseif op == "and" then return a & b
  elseif op == "or" then return a | b
  elseif op == "xor" then return a ~ b
  elseif op == "shl" then return (a << (b & 7)) & 0xffff
  elseif op == "shr" then return a >> (b & 7)
  elseif op == "not" then return ~a & 0xffff
  elseif op == "neg" then return -a
  elseif op == "min" then if a < b then return a else return b end
  elseif op == "max" then if a > b then return a else return b end
  elseif op == "half" then return a // 2
  elseif op == "swap" then return b
  else return 0
  end
end

local ops = {"add", "sub", "mul", "and", "or", "xor", "shl", "shr", "not", "neg", "min", "max", "half", "swap", "?"}
local a, b = 17, 42
for i = 1, n do
  a, b = step(ops[i * 7 % #ops + 1], a, b), (a + i) & 0xfff
end
print(a, b)

local function class(x)
  if x < 0 then return "negative" end
  if x == 0 then return "zero" elseif x < 10 then return "digit" elseif x < 100 then return "tens"
  elseif x < 1000 and x % 2 == 0 then return "even" elseif x < 1000 then return "odd"
  elseif x == math.huge then return "infinite" elseif x ~= x then return "nan" end
  return "large"
end

local count, order = {}, {}
for i = 1, n do
  local x = (i * i * 7) % 1511 - 100
  if i % 50 == 0 then x = 0 elseif i % 77 == 0 then x = 1 / 0 elseif i % 91 == 0 then x = 0 / 0 elseif i % 3 == 0 then x = x + 0.5 end
  local name = class(x)
  if not count[name] then count[name] = 0 order[#order + 1] = name end
  count[name] = count[name] + 1
end
for _, name in ipairs(order) do io.write(name, " ", count[name], "; ") end
print()

local source, words, numbers, others = ("let x1 = 23 + (foo * 7) ; "):rep(n // 20 + 1), 0, 0, 0
local at = 1
while at <= #source do
  local c = source:byte(at)
  if c == 32 then
    at = at + 1
  elseif c >= 97 and c <= 122 or c == 95 then
    repeat at = at + 1 c = source:byte(at) until not c or not (c >= 97 and c <= 122 or c >= 48 and c <= 57)
    words = words + 1
  elseif c >= 48 and c <= 57 then
    repeat at = at + 1 c = source:byte(at) until not c or c < 48 or c > 57
    numbers = numbers + 1
  else
    others = others + c
    at = at + 1
  end
end
print(words, numbers, others)
