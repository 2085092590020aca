-- Reads and writes global variables.
-- sizes: test=1000 idle=80000
local n = tonumber(arg[1]) or 80000000
total, step = 0, 3
for i = 1, n do
  total = total + step
  if i % 1024 == 0 then
    step = step + 1
  end
end
print(total, step)
