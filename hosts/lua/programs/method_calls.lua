-- Calls methods through one and two levels of inheritance.
-- sizes: test=500 idle=15000
local n = tonumber(arg[1]) or 12000000
local Account = {}
Account.__index = Account
function Account.new(balance)
  return setmetatable({ balance = balance }, Account)
end
function Account:add(amount)
  self.balance = self.balance + amount
  return self
end
function Account:get()
  return self.balance
end
local Saver = setmetatable({}, { __index = Account })
Saver.__index = Saver
function Saver:rate()
  return 2
end
local a = Account.new(10)
local s = setmetatable({ balance = 0 }, Saver)
for i = 1, n do
  a:add(i)
  s:add(s:rate() * (a:get() & 3))
end
print(a:get(), s:get())
