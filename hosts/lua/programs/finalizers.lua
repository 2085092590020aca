-- Finalizers, weak tables and closing variables while loops run and the collector with them.
-- sizes: test=40 idle=1000
local n = tonumber(arg and arg[1]) or 40

local finalized, sum = 0, 0
local mt = {__gc = function(o)
  finalized = finalized + 1
  -- A finalizer runs loops itself, in the middle of another one.
  for i = 1, 5 do sum = (sum + o.value * i) % 10007 end
end}
for i = 1, n do
  setmetatable({value = i}, mt)
  if i % 10 == 0 then collectgarbage() end
end
collectgarbage()
print(finalized, sum)

collectgarbage("incremental")
for i = 1, n do
  setmetatable({value = i}, mt)
  collectgarbage("step", i % 3)
end
collectgarbage("generational")
for i = 1, n do
  setmetatable({value = i}, mt)
  if i % 7 == 0 then collectgarbage("step") end
end
collectgarbage()
collectgarbage()
print(finalized, sum >= 0)

local weak, ephemeron = setmetatable({}, {__mode = "v"}), setmetatable({}, {__mode = "k"})
local kept = {}
for i = 1, n do
  local key = {i}
  weak[i] = key
  ephemeron[key] = {key}
  if i % 4 == 0 then kept[#kept + 1] = key end
end
collectgarbage()
local alive, keys = 0, 0
for i = 1, n do if weak[i] then alive = alive + weak[i][1] end end
for key, value in pairs(ephemeron) do keys = keys + key[1] + #value end
print(alive, keys, #kept)

-- Closed at the end of each pass, in order, also by break, goto and return.
local order = 0
local function mark(x) return setmetatable({}, {__close = function() order = (order * 7 + x) % 1000003 end}) end
local function leave(i)
  for k = 1, 4 do
    local a <close> = mark(i + k)
    if k == i % 5 then return k end
    local b <close> = mark(i - k)
    if i % 6 == 0 then break end
    if k % 2 == 0 then goto next end
    order = order + 1
    ::next::
  end
  return 0
end
local total = 0
for i = 1, n do total = total + leave(i) end
print(order, total)

-- Resurrected once, then gone.
local saved, again = {}, 0
local back = {__gc = function(o) saved[#saved + 1] = o end}
for i = 1, n do setmetatable({i}, back) end
collectgarbage()
for i, o in ipairs(saved) do again = again + o[1] end
print(#saved, again)
