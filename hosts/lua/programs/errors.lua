-- Errors of every kind raised and caught in loops: by Lua, by C, in metamethods, in iterators, while closing variables.
-- sizes: test=40 idle=1500
local n = tonumber(arg and arg[1]) or 40

local function kind(i, t)
  local k = i % 10
  if k == 0 then return t.missing.field
  elseif k == 1 then return i + {}
  elseif k == 2 then return #i
  elseif k == 3 then return t()
  elseif k == 4 then error({code = i})
  elseif k == 5 then error("level two", 2)
  elseif k == 6 then return i < "x"
  elseif k == 7 then return math.floor("no number")
  elseif k == 8 then return 1 // (i - i)
  end
  return i
end

local messages, codes, good = {}, 0, 0
for i = 1, n do
  local ok, e = pcall(kind, i, {})
  if ok then good = good + e
  elseif type(e) == "table" then codes = codes + e.code
  else messages[e] = (messages[e] or 0) + 1 end
end
local list = {}
for message, count in pairs(messages) do list[#list + 1] = message .. " x" .. count end
table.sort(list)
for _, line in ipairs(list) do print(line) end
print(good, codes)

-- Through several levels of pcall, rethrown with more in it.
local depth = 0
local function nest(level)
  if level == 0 then error("bottom", 0) end
  local ok, e = pcall(nest, level - 1)
  depth = depth + 1
  error(e .. level % 10, 0)
end
for _ = 1, n // 8 + 1 do
  local _, e = pcall(nest, 6)
  if e ~= "bottom123456" then print("lost", e) end
end
print(depth)

-- Handlers see the stack of the error.
local lines = 0
for i = 1, n do
  xpcall(function() if i % 3 > 0 then local t = nil; t.x = i end end, function(e)
    lines = lines + #e + debug.getinfo(2, "l").currentline
    return e
  end)
end
print(lines)

-- Variables are closed on the way out, and may fail themselves.
local closed = {}
local function closing(name, fails)
  return setmetatable({}, {__close = function(_, e)
    closed[#closed + 1] = name .. ":" .. tostring(e):gsub("^.*: ", "")
    if fails then error("closing " .. name, 0) end
  end})
end
for i = 1, math.min(n, 12) do
  local _, e = pcall(function()
    local a <close> = closing("a", i % 3 == 0)
    local b <close> = closing("b", i % 4 == 0)
    if i % 2 == 0 then error("body", 0) end
  end)
  closed[#closed + 1] = "=" .. tostring(e)
end
print(table.concat(closed, " "))

-- Metamethods and iterators that fail now and then; the loops around them go on.
local caught = 0
local odd = setmetatable({}, {__index = function(_, k) if k % 5 == 0 then error("odd", 0) end return k end,
  __add = function(_, b) if b % 4 == 0 then error("sum", 0) end return b end,
  __lt = function() error("less", 0) end, __concat = function() error(nil) end})
for i = 1, n do
  local ok, x = pcall(function() return odd[i] + (odd + i) end)
  caught = caught + (ok and x or #x)
  if not pcall(function() return odd < odd end) then caught = caught + 1 end
  if select(2, pcall(function() return odd .. i end)) == nil then caught = caught + 1 end
  local seen = 0
  pcall(function()
    for k in function(_, k) if k == 7 then error("iterator") end return k + 1 end, nil, 0 do seen = seen + k end
  end)
  caught = caught + seen
end
print(caught)

-- A coroutine that fails is dead, the loop is not.
local dead = 0
for i = 1, n do
  local co = coroutine.create(function(x) for k = 1, 5 do x = x + coroutine.yield(x) end error("end " .. x, 0) end)
  local x = i
  repeat
    local ok, value = coroutine.resume(co, x)
    x = ok and value % 7 or #value
  until not ok
  if coroutine.status(co) == "dead" then dead = dead + x end
end
print(dead)
