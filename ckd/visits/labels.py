"""The built-in task ccs25: the 25 diseases of the public CKD_EHR files in their fixed order, with their CCS ids."""

from ckd.visits.task import NO_LABEL, Label, NoLabelNamedError, Task, UnknownLabelError

OUTPUT_PREFIX = "Disease that the patient may acquire: "
NO_DISEASE = NO_LABEL

# Names as in the public CKD_EHR files; single-level CCS categories (HCUP), the phenotypes of the MIMIC-III benchmark.
CCS_IDS: dict[str, int] = {
    "Acute and unspecified renal failure": 157,
    "Acute cerebrovascular disease": 109,
    "Acute myocardial infarction": 100,
    "Cardiac dysrhythmias": 106,
    "Chronic kidney disease": 158,
    "Chronic obstructive pulmonary disease": 127,
    "Complications of surgical/medical care": 238,
    "Conduction disorders": 105,
    "Congestive heart failure; nonhypertensive": 108,
    "Coronary atherosclerosis and related": 101,
    "Diabetes mellitus with complications": 50,
    "Diabetes mellitus without complication": 49,
    "Disorders of lipid metabolism": 53,
    "Essential hypertension": 98,
    "Fluid and electrolyte disorders": 55,
    "Gastrointestinal hemorrhage": 153,
    "Hypertension with complications": 99,
    "Other liver diseases": 151,
    "Other lower respiratory disease": 133,
    "Other upper respiratory disease": 134,
    "Pleurisy; pneumothorax; pulmonary collapse": 130,
    "Pneumonia": 122,
    "Respiratory failure; insufficiency; arrest": 131,
    "Septicemia (except in labor)": 2,
    "Shock": 249,
}
DISEASES: tuple[str, ...] = tuple(CCS_IDS)
NUM_LABELS = len(DISEASES)
CCS25 = Task(
    name="ccs25",
    instruction="Determine that the patient has one or more of the following diseases at the next visit: {labels}",
    output=OUTPUT_PREFIX,
    labels=tuple(Label(name=name, ccs=(ccs,)) for name, ccs in CCS_IDS.items()),
)
INSTRUCTION = CCS25.question

NoDiseaseNamedError, UnknownDiseaseError = NoLabelNamedError, UnknownLabelError
parse_output, render_output, names, encode = CCS25.parse_output, CCS25.render_output, CCS25.named, CCS25.encode
