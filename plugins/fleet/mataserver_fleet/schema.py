"""The fields of a model's configuration, ``config.pbtxt``, as Triton knows them.

A message is a block: its name, then a field a line: number, type, name. ``repeated`` and ``map``
stand before a type; of the fields ``of`` one choice only one may be given. An enumeration is a
line: its name and its values from 0.
"""

from __future__ import annotations

NAME = "config.pbtxt"
MAX_BYTES = 1_000_000
MESSAGES = """
BatchInput
  1 BatchInputKind kind
  2 repeated string target_name
  3 DataType data_type
  4 repeated string source_input
BatchOutput
  1 repeated string target_name
  2 BatchOutputKind kind
  3 repeated string source_input
ModelConfig
  1 string name
  2 string platform
  17 string backend
  25 string runtime
  3 ModelVersionPolicy version_policy
  4 int32 max_batch_size
  5 repeated ModelInput input
  6 repeated ModelOutput output
  20 repeated BatchInput batch_input
  21 repeated BatchOutput batch_output
  12 ModelOptimizationPolicy optimization
  11 ModelDynamicBatching dynamic_batching of scheduling_choice
  13 ModelSequenceBatching sequence_batching of scheduling_choice
  15 ModelEnsembling ensemble_scheduling of scheduling_choice
  7 repeated ModelInstanceGroup instance_group
  8 string default_model_filename
  9 map string string cc_model_filenames
  10 map string string metric_tags
  14 map string ModelParameter parameters
  16 repeated ModelWarmup model_warmup
  18 ModelOperations model_operations
  19 ModelTransactionPolicy model_transaction_policy
  23 ModelRepositoryAgents model_repository_agents
  24 ModelResponseCache response_cache
  26 ModelMetrics model_metrics
ModelDynamicBatching
  1 repeated int32 preferred_batch_size
  2 uint64 max_queue_delay_microseconds
  3 bool preserve_ordering
  4 uint64 priority_levels
  5 uint64 default_priority_level
  6 ModelQueuePolicy default_queue_policy
  7 map uint64 ModelQueuePolicy priority_queue_policy
ModelEnsembling
  1 repeated ModelEnsemblingStep step
  2 uint32 max_inflight_requests
ModelEnsemblingStep
  1 string model_name
  2 int64 model_version
  3 map string string input_map
  4 map string string output_map
  5 string model_namespace
ModelInput
  1 string name
  2 DataType data_type
  3 ModelInputFormat format
  4 repeated int64 dims
  5 ModelTensorReshape reshape
  6 bool is_shape_tensor
  7 bool allow_ragged_batch
  8 bool optional
  9 bool is_non_linear_format_io
ModelInstanceGroup
  1 string name
  4 ModelInstanceGroupKind kind
  2 int32 count
  6 ModelRateLimiter rate_limiter
  3 repeated int32 gpus
  8 repeated ModelInstanceGroupSecondaryDevice secondary_devices
  5 repeated string profile
  7 bool passive
  9 string host_policy
ModelInstanceGroupSecondaryDevice
  1 ModelInstanceGroupSecondaryDeviceSecondaryDeviceKind kind
  2 int64 device_id
ModelMetrics
  1 repeated ModelMetricsMetricControl metric_control
ModelMetricsMetricControl
  1 ModelMetricsMetricControlMetricIdentifier metric_identifier
  2 ModelMetricsMetricControlHistogramOptions histogram_options of metric_options
ModelMetricsMetricControlHistogramOptions
  1 repeated double buckets
ModelMetricsMetricControlMetricIdentifier
  1 string family
ModelOperations
  1 repeated string op_library_filename
ModelOptimizationPolicy
  1 ModelOptimizationPolicyGraph graph
  2 ModelOptimizationPolicyModelPriority priority
  3 ModelOptimizationPolicyCuda cuda
  4 ModelOptimizationPolicyExecutionAccelerators execution_accelerators
  5 ModelOptimizationPolicyPinnedMemoryBuffer input_pinned_memory
  6 ModelOptimizationPolicyPinnedMemoryBuffer output_pinned_memory
  7 uint32 gather_kernel_buffer_threshold
  8 bool eager_batching
ModelOptimizationPolicyCuda
  1 bool graphs
  2 bool busy_wait_events
  3 repeated ModelOptimizationPolicyCudaGraphSpec graph_spec
  4 bool output_copy_stream
ModelOptimizationPolicyCudaGraphSpec
  1 int32 batch_size
  2 map string ModelOptimizationPolicyCudaGraphSpecShape input
  3 ModelOptimizationPolicyCudaGraphSpecLowerBound graph_lower_bound
ModelOptimizationPolicyCudaGraphSpecLowerBound
  1 int32 batch_size
  2 map string ModelOptimizationPolicyCudaGraphSpecShape input
ModelOptimizationPolicyCudaGraphSpecShape
  1 repeated int64 dim
ModelOptimizationPolicyExecutionAccelerators
  1 repeated ModelOptimizationPolicyExecutionAcceleratorsAccelerator gpu_execution_accelerator
  2 repeated ModelOptimizationPolicyExecutionAcceleratorsAccelerator cpu_execution_accelerator
ModelOptimizationPolicyExecutionAcceleratorsAccelerator
  1 string name
  2 map string string parameters
ModelOptimizationPolicyGraph
  1 int32 level
ModelOptimizationPolicyPinnedMemoryBuffer
  1 bool enable
ModelOutput
  1 string name
  2 DataType data_type
  3 repeated int64 dims
  5 ModelTensorReshape reshape
  4 string label_filename
  6 bool is_shape_tensor
  7 bool is_non_linear_format_io
ModelParameter
  1 string string_value
ModelQueuePolicy
  1 ModelQueuePolicyTimeoutAction timeout_action
  2 uint64 default_timeout_microseconds
  3 bool allow_timeout_override
  4 uint32 max_queue_size
ModelRateLimiter
  1 repeated ModelRateLimiterResource resources
  2 uint32 priority
ModelRateLimiterResource
  1 string name
  2 bool global
  3 uint32 count
ModelRepositoryAgents
  1 repeated ModelRepositoryAgentsAgent agents
ModelRepositoryAgentsAgent
  1 string name
  2 map string string parameters
ModelResponseCache
  1 bool enable
ModelSequenceBatching
  3 ModelSequenceBatchingStrategyDirect direct of strategy_choice
  4 ModelSequenceBatchingStrategyOldest oldest of strategy_choice
  1 uint64 max_sequence_idle_microseconds
  2 repeated ModelSequenceBatchingControlInput control_input
  5 repeated ModelSequenceBatchingState state
  6 bool iterative_sequence
ModelSequenceBatchingControl
  1 ModelSequenceBatchingControlKind kind
  2 repeated int32 int32_false_true
  3 repeated float fp32_false_true
  5 repeated bool bool_false_true
  4 DataType data_type
ModelSequenceBatchingControlInput
  1 string name
  2 repeated ModelSequenceBatchingControl control
ModelSequenceBatchingInitialState
  1 DataType data_type
  2 repeated int64 dims
  3 bool zero_data of state_data
  4 string data_file of state_data
  5 string name
ModelSequenceBatchingState
  1 string input_name
  2 string output_name
  3 DataType data_type
  4 repeated int64 dims
  5 repeated ModelSequenceBatchingInitialState initial_state
  6 bool use_same_buffer_for_input_output
  7 bool use_growable_memory
ModelSequenceBatchingStrategyDirect
  1 uint64 max_queue_delay_microseconds
  2 float minimum_slot_utilization
ModelSequenceBatchingStrategyOldest
  1 int32 max_candidate_sequences
  2 repeated int32 preferred_batch_size
  3 uint64 max_queue_delay_microseconds
  4 bool preserve_ordering
ModelTensorReshape
  1 repeated int64 shape
ModelTransactionPolicy
  1 bool decoupled
ModelVersionPolicy
  1 ModelVersionPolicyLatest latest of policy_choice
  2 ModelVersionPolicyAll all of policy_choice
  3 ModelVersionPolicySpecific specific of policy_choice
ModelVersionPolicyAll
ModelVersionPolicyLatest
  1 uint32 num_versions
ModelVersionPolicySpecific
  1 repeated int64 versions
ModelWarmup
  1 string name
  2 uint32 batch_size
  3 map string ModelWarmupInput inputs
  4 uint32 count
ModelWarmupInput
  1 DataType data_type
  2 repeated int64 dims
  3 bool zero_data of input_data_type
  4 bool random_data of input_data_type
  5 string input_data_file of input_data_type
"""

ENUMERATIONS = """
BatchInputKind BATCH_ELEMENT_COUNT BATCH_ACCUMULATED_ELEMENT_COUNT
  BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO BATCH_MAX_ELEMENT_COUNT_AS_SHAPE BATCH_ITEM_SHAPE
  BATCH_ITEM_SHAPE_FLATTEN
BatchOutputKind BATCH_SCATTER_WITH_INPUT_SHAPE
DataType TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8
  TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16
ModelInputFormat FORMAT_NONE FORMAT_NHWC FORMAT_NCHW
ModelInstanceGroupKind KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL
ModelInstanceGroupSecondaryDeviceSecondaryDeviceKind KIND_NVDLA
ModelOptimizationPolicyModelPriority PRIORITY_DEFAULT PRIORITY_MAX PRIORITY_MIN
ModelQueuePolicyTimeoutAction REJECT DELAY
ModelSequenceBatchingControlKind CONTROL_SEQUENCE_START CONTROL_SEQUENCE_READY
  CONTROL_SEQUENCE_END CONTROL_SEQUENCE_CORRID
"""
