-- Calls a method that is found through `__index`.
local Account = {}
Account.__index = Account
function Account:add(i)
  self.v = self.v + i
end
local o = setmetatable({ v = 0 }, Account)
for i = 1, 100 do
  o:add(i)
end
print(o.v)
