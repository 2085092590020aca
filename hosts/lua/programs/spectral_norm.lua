-- The largest singular value of an infinite matrix's corner, by power iteration.
-- sizes: test=12 idle=16
local n = tonumber(arg[1]) or 1000
local function element(i, j)
  local d = i + j
  return 1.0 / (d * (d - 1) * 0.5 + i)
end
local function times(x, y, transposed)
  for i = 1, n do
    local sum = 0.0
    for j = 1, n do
      local e
      if transposed then
        e = element(j, i)
      else
        e = element(i, j)
      end
      sum = sum + e * x[j]
    end
    y[i] = sum
  end
end
local u, v, t = {}, {}, {}
for i = 1, n do
  u[i], v[i], t[i] = 1.0, 0.0, 0.0
end
for _ = 1, 10 do
  times(u, t, false)
  times(t, v, true)
  times(v, t, false)
  times(t, u, true)
end
local uv, vv = 0.0, 0.0
for i = 1, n do
  uv = uv + u[i] * v[i]
  vv = vv + v[i] * v[i]
end
print(string.format("%.9f", math.sqrt(uv / vv)))
