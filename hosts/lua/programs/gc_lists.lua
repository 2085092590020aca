-- Makes garbage: linked lists, trees, closures, weak tables and finalizers, with every mode of the collector.
-- sizes: test=30 idle=600
local n = tonumber(arg[1]) or 1200000
local function list(length)
  local head
  for i = 1, length do
    head = { value = i, next = head }
  end
  return head
end
local function tree(depth)
  if depth == 0 then
    return {}
  end
  return { tree(depth - 1), tree(depth - 1) }
end
local function leaves(t)
  if not t[1] then
    return 1
  end
  return leaves(t[1]) + leaves(t[2])
end
local total, kept, closures = 0, {}, {}
for i = 1, n do
  local node = list(i % 12)
  while node do
    total = total + node.value
    node = node.next
  end
  if i % 10 == 0 then
    kept[i % 50 + 1] = list(5)
    total = total + leaves(tree(4))
  end
  closures[i % 8 + 1] = function() return i + total % 2 end
end
for k = 1, 8 do
  local f = closures[k]
  total = total + (f and f() or 0)
end
print(total)

local weak = setmetatable({}, { __mode = "k" })
local finalized = 0
for i = 1, 200 do
  local key = setmetatable({}, { __gc = function() finalized = finalized + 1 end })
  weak[key] = i
end
collectgarbage()
collectgarbage()
print(finalized, next(weak) == nil)
for _, mode in ipairs({ "incremental", "generational" }) do
  collectgarbage(mode)
  local last
  for i = 1, n // 4 do
    last = { i, { tostring(i) } }
  end
  collectgarbage("step")
  print(mode, last and last[2][1])
end
