-- Reads and writes the fields of one table.
-- sizes: test=1000 idle=60000
local n = tonumber(arg[1]) or 40000000
local p = { x = 1.0, y = 0.5, z = 0.25, count = 0 }
for i = 1, n do
  p.x = p.x * 0.5 + p.y * p.z
  p.count = p.count + (i & 3)
end
print(string.format("%.17g %d", p.x, p.count))
