-- Bodies that attract each other in space, moved step by step.
-- sizes: test=50 idle=150
local steps = tonumber(arg[1]) or 1000000
local sqrt = math.sqrt
local bodies = {}
for i = 1, tonumber(arg[2]) or 5 do
  local angle = i * 1.3
  bodies[i] = {
    x = i * i * math.cos(angle), y = i * i * math.sin(angle), z = 0.1 * i,
    vx = -0.3 * math.sin(angle), vy = 0.3 * math.cos(angle), vz = 0.01 * (3 - i),
    mass = i == 1 and 39.5 or 0.02 * i,
  }
end
bodies[1].x, bodies[1].y, bodies[1].z = 0.0, 0.0, 0.0

local function advance(dt)
  local count = #bodies
  for i = 1, count do
    local a = bodies[i]
    local ax, ay, az, am = a.x, a.y, a.z, a.mass
    local vx, vy, vz = a.vx, a.vy, a.vz
    for j = i + 1, count do
      local b = bodies[j]
      local dx, dy, dz = ax - b.x, ay - b.y, az - b.z
      local square = dx * dx + dy * dy + dz * dz
      local force = dt / (square * sqrt(square))
      local by, to = b.mass * force, am * force
      vx, vy, vz = vx - dx * by, vy - dy * by, vz - dz * by
      b.vx, b.vy, b.vz = b.vx + dx * to, b.vy + dy * to, b.vz + dz * to
    end
    a.vx, a.vy, a.vz = vx, vy, vz
    a.x, a.y, a.z = ax + dt * vx, ay + dt * vy, az + dt * vz
  end
end

local function energy()
  local e = 0.0
  for i, a in ipairs(bodies) do
    e = e + 0.5 * a.mass * (a.vx * a.vx + a.vy * a.vy + a.vz * a.vz)
    for j = i + 1, #bodies do
      local b = bodies[j]
      local dx, dy, dz = a.x - b.x, a.y - b.y, a.z - b.z
      e = e - a.mass * b.mass / sqrt(dx * dx + dy * dy + dz * dz)
    end
  end
  return e
end

print(string.format("%.15g", energy()))
for _ = 1, steps do
  advance(0.001)
end
print(string.format("%.15g", energy()))
