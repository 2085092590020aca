-- Compiles small programs while it runs, calls them in loops, and lets them become garbage.
-- sizes: test=30 idle=400
local n = tonumber(arg and arg[1]) or 30

-- Code of functions that are gone makes room for code of others, in the same memory.
local sum = 0
for i = 1, n do
  local f = load("local x = ... for i = 1, 12 do x = x + i * " .. i .. " end return x")
  sum = sum + f(i) + f(i + 0.5)
  if i % 8 == 0 then f = nil collectgarbage() end
end
print(sum)

local operators = {"+", "-", "*", "//", "%", "&", "|", "~", "<<", ">>"}
local hash = 0
for i = 1, n do
  local op = operators[i % #operators + 1]
  local text = "local a, n = ..., 0 for k = 1, 15 do n = n ~ (a " .. op .. " (k | 1)) a = a + 3 end return n"
  local f = assert(load(text, "=chunk" .. i % 3, "t", {}))
  for k = 1, 3 do hash = (hash * 31 + f(i * k)) & 0xffffffffffff end
end
print(hash)

-- Through the binary form and back.
local function body(limit)
  local t = {}
  for i = 1, limit do t[#t + 1] = i * i end
  local s = 0
  for _, x in ipairs(t) do s = s + x end
  return s
end
sum = 0
for i = 1, n do
  local again = load(string.dump(body, i % 2 == 0), "again", "b")
  sum = sum + again(i % 20 + 5)
end
print(sum)

-- Texts in pieces, environments, errors of the compiler.
local globals = {}
for i = 1, n do
  local pieces, at = {"x = (x or 0) ", "+ ", tostring(i), " for j = 1, 4 do ", "x = x + j end"}, 0
  load(function() at = at + 1 return pieces[at] end, "pieces", "t", globals)()
end
print(globals.x)
local bad = 0
for i = 1, n do
  local f, e = load("return " .. ("("):rep(i % 4) .. i .. (")"):rep(i % 3))
  bad = bad + (f and f() or #e)
end
print(bad)
