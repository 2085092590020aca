-- Reads and writes the fields of a table.
local p = { x = 1.0, y = 0.5, z = 0.25 }
for _ = 1, 100 do
  p.x = p.x + p.y * p.z
end
print(p.x)
