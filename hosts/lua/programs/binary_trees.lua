-- Builds and walks binary trees of growing depth, most of which are garbage at once.
-- sizes: test=6 idle=8
local n = tonumber(arg and arg[1]) or 6

local function tree(depth)
  if depth == 0 then return {} end
  return {tree(depth - 1), tree(depth - 1)}
end

local function check(node)
  if node[1] then return 1 + check(node[1]) + check(node[2]) end
  return 1
end

-- Keys come in, by chance of nobody: the order decides the shape.
local function insert(node, key)
  if not node then return {key = key, count = 1} end
  if key < node.key then
    node.left = insert(node.left, key)
  elseif key > node.key then
    node.right = insert(node.right, key)
  else
    node.count = node.count + 1
  end
  return node
end

local function walk(node, level, sum)
  if not node then return sum end
  sum = walk(node.left, level + 1, sum)
  sum = (sum * 31 + node.key * level + node.count) % 1000000007
  return walk(node.right, level + 1, sum)
end

local long = tree(n)
for depth = 2, n, 2 do
  local count, nodes = 1 << (n - depth + 2), 0
  for _ = 1, count do nodes = nodes + check(tree(depth)) end
  print(count, depth, nodes)
end
print("long lived", check(long))

local root, key = nil, 12345
for _ = 1, 40 * n do
  key = (key * 1103515245 + 12345) % 2147483648
  root = insert(root, key % 199)
end
print("sorted", walk(root, 1, 0))
