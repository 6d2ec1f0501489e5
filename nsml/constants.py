"""The constants of a session, under the name that scripts import them by."""

from nsml.sdk.context import DATASET_NAME as DATASET_NAME
from nsml.sdk.context import DATASET_PATH as DATASET_PATH
from nsml.sdk.context import GPU_NUM as GPU_NUM
from nsml.sdk.context import HAS_DATASET as HAS_DATASET
from nsml.sdk.context import IS_DATASET as IS_DATASET
from nsml.sdk.context import IS_ON_NSML as IS_ON_NSML
from nsml.sdk.context import MY_RANK as MY_RANK
from nsml.sdk.context import NSML_NFS_OUTPUT as NSML_NFS_OUTPUT
from nsml.sdk.context import PARALLEL_PORTS as PARALLEL_PORTS
from nsml.sdk.context import PARALLEL_WORLD as PARALLEL_WORLD
from nsml.sdk.context import SESSION_ID as SESSION_ID
from nsml.sdk.context import SESSION_NAME as SESSION_NAME
