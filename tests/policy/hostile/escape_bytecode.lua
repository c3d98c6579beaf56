Lua-- expect: load error
