-- Recursion up to the limits of the interpreter: every kind ends with the same error at the same depth, again and again.
-- sizes: test=1 idle=1
local n = tonumber(arg and arg[1]) or 3

local function attempt(name, f, ...)
  local first
  for round = 1, n do
    local depth = 0
    local ok, e = pcall(f, function() depth = depth + 1 end, ...)
    e = tostring(e):gsub("\n.*", ""):sub(1, 90)
    if round == 1 then
      first = depth
      print(name, ok, depth, e)
    elseif depth ~= first then
      print(name, "another depth", depth)
    end
  end
end

attempt("Lua to Lua", function(count)
  local function down(x) count() return 1 + down(x + 1) end
  return down(1)
end)
attempt("with a loop inside", function(count)
  local function down(x)
    local sum = 0
    for i = 1, 3 do sum = sum + i end
    count()
    return sum + down(x + 1)
  end
  return down(1)
end)
attempt("many locals", function(count)
  local function down(a, b, c, d, e, f, g, h)
    count()
    local i, j, k, l = a, b, c, d
    return down(i, j, k, l, e, f, g, h) + 1
  end
  return down(1, 2, 3, 4, 5, 6, 7, 8)
end)
attempt("metamethods", function(count)
  local t = setmetatable({}, {})
  getmetatable(t).__index = function(_, k) count() return t[k + 1] + 1 end
  return t[1]
end)
attempt("__add", function(count)
  local mt = {}
  local t = setmetatable({}, mt)
  mt.__add = function(a, b) count() return a + b end
  return t + 1
end)
attempt("pcall", function(count)
  local function down() count() local ok, e = pcall(down) error(e, 0) end
  return down()
end)
attempt("gsub", function(count)
  local function down(c) count() return (c:gsub(".", down)) end
  return down("x")
end)
attempt("sort", function(count)
  local function down() count() table.sort({1, 2, 3}, function(a, b) down() return a < b end) end
  return down()
end)
attempt("coroutines", function(count)
  local function down() count() return coroutine.wrap(down)() end
  return down()
end)
attempt("tostring", function(count)
  local t = setmetatable({}, {__tostring = function(t) count() return tostring(t) end})
  return tostring(t)
end)
attempt("xpcall with a failing handler", function(count)
  local function handler() count() error("again", 0) end
  local ok, e = xpcall(error, handler, "first")
  return error(e, 0)
end)
attempt("parser", function(count)
  for i = 50, 260, 10 do
    if not load("return " .. ("("):rep(i) .. "1" .. (")"):rep(i)) then error("nested", 0) end
    count()
  end
end)
attempt("patterns", function(count)
  for _, length in ipairs({100, 190, 210, 100000}) do
    count()
    local found = (("a"):rep(length)):find(("(.-)b"):rep(1)) or (("a"):rep(length)):match(("a?"):rep(length % 300) .. "$")
    if found == false then count() end
  end
  error("done", 0)
end)

-- Tail calls have no limit.
local function loop(i, sum) if i == 0 then return sum end return loop(i - 1, sum + i) end
print(loop(20000 * n, 0))

-- A stack that has been large shrinks, and works as before.
local function sum(i) if i == 0 then return 0 end return i + sum(i - 1) end
for _ = 1, n do
  print(sum(5000), select("#", table.unpack({}, 1, 5000)), pcall(table.unpack, {}, 1, 1e7))
  collectgarbage()
end
