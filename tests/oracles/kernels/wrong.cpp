#include "kernel.h"
extern "C" int neg(const Call *call) { return no_such_name; }
