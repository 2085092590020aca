-- The inner loop of the n-body problem: what one body does to the others.
local sqrt = math.sqrt
local bodies = {}
for i = 1, 40 do
  bodies[i] = {
    x = i * 1.5, y = i * i * 0.25, z = 1.0 / i, vx = 0.0, vy = 0.0, vz = 0.0, mass = 1.0 / (i + 1),
  }
end
local function advance(count, dt)
  for i = 1, count do
    local bi = bodies[i]
    local bix, biy, biz, bimass = bi.x, bi.y, bi.z, bi.mass
    local bivx, bivy, bivz = bi.vx, bi.vy, bi.vz
    for j = i + 1, count do
      local bj = bodies[j]
      local dx, dy, dz = bix - bj.x, biy - bj.y, biz - bj.z
      local d2 = dx * dx + dy * dy + dz * dz
      local mag = dt / (d2 * sqrt(d2))
      local bm, bim = bj.mass * mag, bimass * mag
      bivx, bivy, bivz = bivx - dx * bm, bivy - dy * bm, bivz - dz * bm
      bj.vx, bj.vy, bj.vz = bj.vx + dx * bim, bj.vy + dy * bim, bj.vz + dz * bim
    end
    bi.vx, bi.vy, bi.vz = bivx, bivy, bivz
  end
end
advance(40, 0.01)
print(bodies[1].vx)
