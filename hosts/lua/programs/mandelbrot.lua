-- Counts iterations over a grid of the Mandelbrot set.
-- sizes: test=12 idle=18
local n = tonumber(arg[1]) or 1100
local inside, total = 0, 0
for py = 0, n - 1 do
  local ci = 2.0 * py / n - 1.0
  for px = 0, n - 1 do
    local cr = 2.0 * px / n - 1.5
    local zr, zi, r2, i2 = 0.0, 0.0, 0.0, 0.0
    local steps = 0
    while steps < 100 do
      if r2 + i2 > 4.0 then
        break
      end
      zi = 2.0 * zr * zi + ci
      zr = r2 - i2 + cr
      r2, i2 = zr * zr, zi * zi
      steps = steps + 1
    end
    if steps == 100 then
      inside = inside + 1
    end
    total = total + steps
  end
end
print(inside, total)
