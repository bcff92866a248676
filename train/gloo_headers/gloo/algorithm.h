// Declarations that c10d's ProcessGroupGloo.hpp needs to parse; the PyTorch wheel ships the library
// without Gloo's headers, and a client refers to c10d's symbols only. The four other files in this
// folder are here for the same reason.
#pragma once
