// Wrong use of the C++ face. test_headers.py compiles this file twice: as it is, when every line
// that ends with "refused:" must be an error whose text matches what follows, and no other line may
// be one; and without those lines, when it must compile.
#include <syncnorm/syncnorm.hpp>
#include <vector>

using syncnorm::Communicator;
using syncnorm::Launch;

struct Stream;  // as cudaStream_t and ncclComm_t point to one
std::vector<double> make_values();
syncnorm::Workspace make_workspace();

void launches(Stream* stream, syncnorm::WorkspaceView room, const syncnorm::Workspace& workspace) {
  Launch::cpu(workspace);
  Launch::cpu(make_workspace());         // refused: deleted
  Launch::cpu(syncnorm::Workspace(64));  // refused: deleted
  Launch::cpu(64);                       // refused: conver|no matching
  Launch::cuda(0, stream, workspace);
  Launch::cuda(0, room);                      // refused: no matching
  Launch::cuda(0, nullptr, room);             // refused: deleted
  Launch::cuda(0, 0, room);                   // refused: deleted
  Launch::cuda(0, &stream, room);             // refused: deleted
  Launch::cuda(0, stream, make_workspace());  // refused: deleted
  Launch everywhere;                          // refused: no matching|default constructor
}

void communicators(Communicator& comm, Stream* nccl_comm, syncnorm_comm* handle) {
  Communicator::adopt(handle);
  Communicator::adopt(comm.get());  // refused: deleted
  Communicator::adopt(nccl_comm);   // refused: no matching|conver
  Communicator::borrow_nccl(nccl_comm);
  Communicator::borrow_nccl(&nccl_comm);  // refused: deleted
  Communicator::borrow_nccl(handle);      // refused: deleted
  Communicator::borrow_nccl(comm.get());  // refused: deleted
  Communicator::borrow_nccl(nullptr);     // refused: deleted
  Communicator copy = comm;               // refused: deleted
  Communicator owner = comm.get();        // refused: conver
  Communicator moved = std::move(comm);
}

void views(const std::vector<double>& in, std::vector<double>& out, std::vector<float>& floats) {
  syncnorm::ForwardArgs args;
  args.saved = out;
  args.saved = make_values();  // refused: no match|no viable
  args.saved = in;             // refused: no match|no viable
  args.saved = floats;         // refused: no match|no viable
  args.x = {in.data(), 2, 3};
  args.y = {in.data(), 2, 3};  // refused: no match|no viable
  args.running_mean = floats.data();
  args.running_mean = in.data();                             // refused: no match|no viable
  args.weight = "1";                                         // refused: no match|no viable
  const syncnorm::Span<const double> later = make_values();  // refused: conver|no viable
}

void numbers(void* data, Communicator& comm, const Launch& launch) {
  const syncnorm::Shape shape{2, 3, 4, SYNCNORM_BFLOAT16};
  const syncnorm::Shape by_number{2, 3, 4, 1};  // refused: conver|cannot initialize
  const syncnorm::Shape layout{2, 3, 4, SYNCNORM_CHANNELS_LAST};  // refused: conver|cannot init
  const syncnorm::Vector vector(data, SYNCNORM_FLOAT16);
  const syncnorm::Vector numbered(data, 2);  // refused: no matching
  const syncnorm::Vector untyped(data);      // refused: no matching
  syncnorm::Options options;
  options.weighting = SYNCNORM_WEIGHT_EQUAL;
  options.weighting = 1;                 // refused: conver|incompatible type
  options.weighting = SYNCNORM_EPS_MAX;  // refused: conver|incompatible type
  syncnorm::forward(options, syncnorm::ForwardArgs(), comm, launch);
  syncnorm::forward(options, syncnorm::BackwardArgs(), comm, launch);  // refused: no matching
  syncnorm::forward(options, {}, Communicator(), launch);              // refused: no matching|bind
}
