-- Multiplies two square matrices of floats.
-- sizes: test=10 idle=18
local n = tonumber(arg[1]) or 440
local function matrix(seed)
  local m = {}
  for i = 1, n do
    local row = {}
    for j = 1, n do
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      row[j] = seed / 0x7fffffff
    end
    m[i] = row
  end
  return m
end
local a, b, c = matrix(1), matrix(2), {}
for i = 1, n do
  local from, to = a[i], {}
  for j = 1, n do
    local sum = 0.0
    for k = 1, n do
      sum = sum + from[k] * b[k][j]
    end
    to[j] = sum
  end
  c[i] = to
end
local trace = 0.0
for i = 1, n do
  trace = trace + c[i][i] - c[i][n + 1 - i]
end
print(string.format("%.12g", trace))
