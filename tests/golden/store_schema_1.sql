BEGIN TRANSACTION;
CREATE TABLE artifact (
	digest VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_artifact PRIMARY KEY (digest)
);
INSERT INTO "artifact" VALUES('5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531',4000,'2026-01-01T00:00:00.000+00:00');
INSERT INTO "artifact" VALUES('6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e',4000,'2026-01-01T00:00:00.000+00:00');
CREATE TABLE autotune_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT autotune_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "autotune_schema" VALUES('1');
CREATE TABLE build (
	trial_id INTEGER NOT NULL, 
	dialect VARCHAR(40) NOT NULL, 
	artifact VARCHAR(64) NOT NULL, 
	layers TEXT NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_build PRIMARY KEY (trial_id, dialect), 
	CONSTRAINT fk_build_trial_id_trial FOREIGN KEY(trial_id) REFERENCES trial (id), 
	CONSTRAINT fk_build_artifact_artifact FOREIGN KEY(artifact) REFERENCES artifact (digest)
);
INSERT INTO "build" VALUES(1,'ort-cpu','5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531','[{"layer":"layer.0","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""},{"layer":"layer.1","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""},{"layer":"layer.2","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""}]','2026-01-01T00:00:00.000+00:00');
INSERT INTO "build" VALUES(2,'ort-cpu','6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e','[{"layer":"layer.0","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""},{"layer":"layer.1","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""},{"layer":"layer.2","asked":"int8","ran":"QLinearConv","honoured":true,"seconds":0.0001,"note":""}]','2026-01-01T00:00:00.000+00:00');
CREATE TABLE evaluation (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	artifact VARCHAR(64) NOT NULL, 
	dataset_digest VARCHAR(64) NOT NULL, 
	target VARCHAR(200) NOT NULL, 
	fingerprint_key VARCHAR(64) NOT NULL, 
	record TEXT NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_evaluation PRIMARY KEY (id), 
	CONSTRAINT fk_evaluation_study_id_study FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_evaluation_identity UNIQUE (study_id, artifact, dataset_digest, target, fingerprint_key)
);
INSERT INTO "evaluation" VALUES(1,1,'5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','local','','{"artifact":"5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531","dataset":"search","dataset_digest":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","metric":"accuracy","target":"local","n":30,"slices":[{"name":"all","n":30,"original":{"value":1.0,"low":0.99,"high":1.01},"candidate":{"value":0.9333333333333333,"low":0.924,"high":0.9426666666666667},"drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"shrunk_drop":0.06666666666666665,"flips_worse":2,"flips_better":0,"p_value":0.5,"q_value":null,"verdict":"undecided","needed":null,"damage":null},{"name":"font=serif","n":30,"original":{"value":1.0,"low":0.99,"high":1.01},"candidate":{"value":0.9333333333333333,"low":0.924,"high":0.9426666666666667},"drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"shrunk_drop":0.06666666666666665,"flips_worse":2,"flips_better":0,"p_value":0.5,"q_value":null,"verdict":"undecided","needed":null,"damage":null}],"worst_slice":"all","worst_drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"limit":0.01,"seconds":2.0}','2026-01-01T00:00:00.000+00:00');
INSERT INTO "evaluation" VALUES(2,1,'6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','local','','{"artifact":"6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e","dataset":"search","dataset_digest":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","metric":"accuracy","target":"local","n":30,"slices":[{"name":"all","n":30,"original":{"value":1.0,"low":0.99,"high":1.01},"candidate":{"value":0.9333333333333333,"low":0.924,"high":0.9426666666666667},"drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"shrunk_drop":0.06666666666666665,"flips_worse":2,"flips_better":0,"p_value":0.5,"q_value":null,"verdict":"undecided","needed":null,"damage":null},{"name":"font=serif","n":30,"original":{"value":1.0,"low":0.99,"high":1.01},"candidate":{"value":0.9333333333333333,"low":0.924,"high":0.9426666666666667},"drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"shrunk_drop":0.06666666666666665,"flips_worse":2,"flips_better":0,"p_value":0.5,"q_value":null,"verdict":"undecided","needed":null,"damage":null}],"worst_slice":"all","worst_drop":{"value":0.06666666666666665,"low":0.06599999999999999,"high":0.06733333333333331},"limit":0.01,"seconds":2.0}','2026-01-01T00:00:00.000+00:00');
CREATE TABLE measurement (
	id INTEGER NOT NULL, 
	identity VARCHAR(64), 
	model VARCHAR(64) NOT NULL, 
	baseline VARCHAR(64), 
	target VARCHAR(200) NOT NULL, 
	fingerprint_key VARCHAR(64) NOT NULL, 
	scenario_digest VARCHAR(64) NOT NULL, 
	record TEXT NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_measurement PRIMARY KEY (id), 
	CONSTRAINT uq_measurement_identity UNIQUE (identity)
);
INSERT INTO "measurement" VALUES(1,'f03127ce6fe80485cb671c131f5730807f429680f9f9e3f8bba4c0a2fb47e6d1','5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','local','8fcef31a3a36368f','2fdfffd2d61c1e58f98a4231670b8dbc0d2de6d9f11c919cf7dd4fa75d93a689','{"target":"local","model":"5b1877198a8441d69e32b1e3c77a61989c62fb8dd988fd4baf263daa11abd531","baseline":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","scenario":{"phase":"search","batch":1,"warmup_seconds":0.5,"warmup_iterations":20,"warmup_cap":10.0,"block_seconds":0.1,"block_iterations":10,"min_pairs":20,"max_pairs":50,"precision":0.01,"max_seconds":60.0,"memory_runs":1,"seed":0},"fingerprint":{"machine":"x86_64","system":"Linux 6.1","cpu_model":"Test CPU","isa":["avx2"],"cores":2,"memory_total":8589934592,"runtime":"onnxruntime","runtime_version":"1.31.1","provider":"CPUExecutionProvider","python":"3.11.7","numpy":"2.1.0","threads":1,"boot_id":null,"environment":{}},"provenance":"hardware","latency":{"median":{"value":0.01,"low":0.0099,"high":0.0101},"p90":0.011,"p99":null,"cpu_median":0.01,"cv":0.02,"iterations":200,"blocks":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019],"load_seconds":0.2,"first_seconds":0.02},"baseline_latency":{"median":{"value":0.01,"low":0.0099,"high":0.0101},"p90":0.011,"p99":null,"cpu_median":0.01,"cv":0.02,"iterations":200,"blocks":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019],"load_seconds":0.2,"first_seconds":0.02},"ratio":{"estimate":{"value":0.8,"low":0.792,"high":0.808},"cpu":0.8,"pairs":20,"log_ratios":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019]},"memory":{"peak":1048576,"load_peak":1048576,"run_peak":3145728,"import_only":2097152,"runs":1},"quality":["ok"],"failure":null,"started_at":"2026-01-01T00:00:00+00:00","seconds":1.0,"environment":{}}','2026-01-01T00:00:00.000+00:00');
INSERT INTO "measurement" VALUES(2,'25ad4c223d395518f8e12274d2d30abc0fc562dd247de3f6cc35994981168971','6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','local','8fcef31a3a36368f','2fdfffd2d61c1e58f98a4231670b8dbc0d2de6d9f11c919cf7dd4fa75d93a689','{"target":"local","model":"6cfc466dc7dafc987d875ae3055a08db63a87cf66301c3ea63e9d9c047f8c62e","baseline":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","scenario":{"phase":"search","batch":1,"warmup_seconds":0.5,"warmup_iterations":20,"warmup_cap":10.0,"block_seconds":0.1,"block_iterations":10,"min_pairs":20,"max_pairs":50,"precision":0.01,"max_seconds":60.0,"memory_runs":1,"seed":0},"fingerprint":{"machine":"x86_64","system":"Linux 6.1","cpu_model":"Test CPU","isa":["avx2"],"cores":2,"memory_total":8589934592,"runtime":"onnxruntime","runtime_version":"1.31.1","provider":"CPUExecutionProvider","python":"3.11.7","numpy":"2.1.0","threads":1,"boot_id":null,"environment":{}},"provenance":"hardware","latency":{"median":{"value":0.01,"low":0.0099,"high":0.0101},"p90":0.011,"p99":null,"cpu_median":0.01,"cv":0.02,"iterations":200,"blocks":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019],"load_seconds":0.2,"first_seconds":0.02},"baseline_latency":{"median":{"value":0.01,"low":0.0099,"high":0.0101},"p90":0.011,"p99":null,"cpu_median":0.01,"cv":0.02,"iterations":200,"blocks":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019],"load_seconds":0.2,"first_seconds":0.02},"ratio":{"estimate":{"value":0.8,"low":0.792,"high":0.808},"cpu":0.8,"pairs":20,"log_ratios":[0.01,0.01001,0.01002,0.01003,0.01004,0.01005,0.01006,0.01007,0.01008,0.01009,0.0101,0.010110000000000001,0.01012,0.01013,0.01014,0.010150000000000001,0.01016,0.01017,0.01018,0.01019]},"memory":{"peak":1048576,"load_peak":1048576,"run_peak":3145728,"import_only":2097152,"runs":1},"quality":["ok"],"failure":null,"started_at":"2026-01-01T00:00:00+00:00","seconds":1.0,"environment":{}}','2026-01-01T00:00:00.000+00:00');
CREATE TABLE meta (
	study_id INTEGER NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_meta PRIMARY KEY (study_id, "key"), 
	CONSTRAINT fk_meta_study_id_study FOREIGN KEY(study_id) REFERENCES study (id)
);
INSERT INTO "meta" VALUES(1,'note','{"kept": true}');
CREATE TABLE metric (
	trial_id INTEGER NOT NULL, 
	phase VARCHAR(20) NOT NULL, 
	"key" VARCHAR(400) NOT NULL, 
	value FLOAT NOT NULL, 
	low FLOAT NOT NULL, 
	high FLOAT NOT NULL, 
	CONSTRAINT pk_metric PRIMARY KEY (trial_id, phase, "key"), 
	CONSTRAINT fk_metric_trial_id_trial FOREIGN KEY(trial_id) REFERENCES trial (id)
);
INSERT INTO "metric" VALUES(1,'search','size_bytes',4000.0,4000.0,4000.0);
INSERT INTO "metric" VALUES(1,'search','latency_ratio@local',0.8,0.78,0.82);
INSERT INTO "metric" VALUES(1,'search','drop/worst',0.004,-0.001,0.01);
INSERT INTO "metric" VALUES(2,'search','size_bytes',4000.0,4000.0,4000.0);
INSERT INTO "metric" VALUES(2,'search','latency_ratio@local',0.8,0.78,0.82);
INSERT INTO "metric" VALUES(2,'search','drop/worst',0.004,-0.001,0.01);
INSERT INTO "metric" VALUES(2,'final','drop/worst',0.006,0.0,0.012);
CREATE TABLE outcomes (
	evaluation_id INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT pk_outcomes PRIMARY KEY (evaluation_id), 
	CONSTRAINT fk_outcomes_evaluation_id_evaluation FOREIGN KEY(evaluation_id) REFERENCES evaluation (id)
);
INSERT INTO "outcomes" VALUES(1,X'789CBDD64B0AC2301446E1AD848C8BE45E5FAD5B2945625324505B699D897BD7804A11A17472A63F8133BA1F29EF36067B3076F4976BDB18673363FB219E63E7DBB4FB34D4BE0B31F85BF35D3E4F8E63DD0F6996959B3E9CEE8FCCFC5404A928525923950D52D922951D52D923951CA914CC5542C7CF5CBF30E72FCCFD0B038030020843803006088380300A28A380427F004601651450460165145046016514D079054A7B7A4D9A574B62EE6F6CDE8277AC581CAB9E0E00A05E');
INSERT INTO "outcomes" VALUES(2,X'789CBDD64B0AC2301446E1AD848C8BE45E5FAD5B2945625324505B699D897BD7804A11A17472A63F8133BA1F29EF36067B3076F4976BDB18673363FB219E63E7DBB4FB34D4BE0B31F85BF35D3E4F8E63DD0F6996959B3E9CEE8FCCFC5404A928525923950D52D922951D52D923951CA914CC5542C7CF5CBF30E72FCCFD0B038030020843803006088380300A28A380427F004601651450460165145046016514D079054A7B7A4D9A574B62EE6F6CDE8277AC581CAB9E0E00A05E');
CREATE TABLE run (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	config TEXT NOT NULL, 
	version VARCHAR(40) NOT NULL, 
	started_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_run PRIMARY KEY (id), 
	CONSTRAINT fk_run_study_id_study FOREIGN KEY(study_id) REFERENCES study (id)
);
INSERT INTO "run" VALUES(1,1,'{"name": "digits"}','0.1.0','2026-01-01T00:00:00.000+00:00');
CREATE TABLE study (
	id INTEGER NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	workload_digest VARCHAR(64), 
	created_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_study PRIMARY KEY (id), 
	CONSTRAINT uq_study_name UNIQUE (name)
);
INSERT INTO "study" VALUES(1,'digits','7777777777777777777777777777777777777777777777777777777777777777','2026-01-01T00:00:00.000+00:00');
CREATE TABLE trial (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	recipe_digest VARCHAR(64) NOT NULL, 
	recipe TEXT NOT NULL, 
	proposer VARCHAR(200) NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	reason TEXT NOT NULL, 
	failure TEXT, 
	durations TEXT NOT NULL, 
	started_at VARCHAR(40) NOT NULL, 
	finished_at VARCHAR(40) NOT NULL, 
	CONSTRAINT pk_trial PRIMARY KEY (id), 
	CONSTRAINT fk_trial_study_id_study FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_trial_number UNIQUE (study_id, number), 
	CONSTRAINT uq_trial_recipe_digest UNIQUE (study_id, recipe_digest)
);
INSERT INTO "trial" VALUES(1,1,0,'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','{}','baseline','complete','',NULL,'{"build": 0.5}','2026-01-01T00:00:00.000+00:00','2026-01-01T00:00:00.000+00:00');
INSERT INTO "trial" VALUES(2,1,1,'983134dd1266aa17803a4c964d37f84326e67bd824f9bceab2908db47dadf60d','{"quantize":{"layer.0":"int8"}}','uniform','complete','',NULL,'{"build": 0.5}','2026-01-01T00:00:00.000+00:00','2026-01-01T00:00:00.000+00:00');
INSERT INTO "trial" VALUES(3,1,2,'d6467d091ce9a305ae94b9d791f3945945a6b00ced961152208b2b8f348b5f91','{"quantize":{"layer.1":"int8"}}','surrogate','failed','','{"kind":"timeout","stage":"latency","message":"no answer after 120 s","traceback":null}','{}','2026-01-01T00:00:00.000+00:00','2026-01-01T00:00:00.000+00:00');
CREATE INDEX ix_run_study_id ON run (study_id);
CREATE INDEX ix_build_artifact ON build (artifact);
CREATE INDEX ix_measurement_model ON measurement (model);
CREATE INDEX ix_evaluation_artifact ON evaluation (artifact);
COMMIT;
