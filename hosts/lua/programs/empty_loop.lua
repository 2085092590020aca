-- A counted loop that does nothing.
-- sizes: test=1000 idle=300000
local n = tonumber(arg[1]) or 500000000
for _ = 1, n do
end
print("empty", n)
